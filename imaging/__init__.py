"""Pictures in and out of files, and how alike two of them are."""
