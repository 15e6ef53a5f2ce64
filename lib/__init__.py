"""Code the chapters call: five rooms, one for each step from input to picture."""
