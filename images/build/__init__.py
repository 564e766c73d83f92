"""What an image is, and how a recipe becomes one."""
