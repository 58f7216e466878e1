"""How does a page look? Templates, tables, thumbnails and plots that all pages share."""
