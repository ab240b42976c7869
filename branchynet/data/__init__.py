"""Images: the data sets, where they are found, how files are read, image files to pixels, how images are disturbed.

May import errors only."""
