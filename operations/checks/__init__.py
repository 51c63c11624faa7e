"""What `personalization preflight` asks: one file a subject, each giving its questions about one target."""
