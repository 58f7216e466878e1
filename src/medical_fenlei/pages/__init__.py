"""What do all pages share? Templates, pictures and plots."""
