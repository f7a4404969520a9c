"""Pages and plots that people read: made from evidence alone."""
