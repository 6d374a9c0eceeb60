"""ModelScope: the layout of its cache, its requests and its errors."""
