"""Images of one's own: found in folders, tables and archives, read once, parted by content, named as an artifact's."""
