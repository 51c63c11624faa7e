"""`personalization open`: a page on 127.0.0.1 that shows one stack, and lets a user's ranking be tried.

Changes nothing, in the stack or in the cloud. What it needs of the cloud it asks with the login of whoever opened it:
a key or a token stays in this process, and the browser is sent no address but this one's.
"""
