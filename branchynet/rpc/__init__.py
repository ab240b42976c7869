"""How nodes talk: protobuf to values and back, the server's life, channels, errors as statuses."""
