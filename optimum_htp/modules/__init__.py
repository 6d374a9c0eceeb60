"""Features that use tags: selecting nodes by module, quantizing by module, extracting a module.

`patterns` defines how modules are named.
"""
