"""Where frames come from and how they become network input."""
