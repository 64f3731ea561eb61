"""The demo, and the page that it writes."""
