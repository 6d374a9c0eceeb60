"""Optional features. Each is a plugin of this package's own hooks; nothing else imports it."""
