"""Images as sequences of rows or pixels."""
