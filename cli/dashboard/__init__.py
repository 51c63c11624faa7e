"""`personalization dashboard`: a website on 127.0.0.1 that shows one stack and ranks items for a user.

Changes nothing in the stack or in the cloud. It queries the cloud with the login of the user who started it. Keys and
tokens stay in this process, and the browser connects only to this server.
"""
