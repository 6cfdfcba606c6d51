"""What a site can set, and how the program speaks about itself."""
