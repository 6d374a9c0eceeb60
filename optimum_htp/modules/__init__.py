"""What tags are good for: selecting nodes by module, quantizing by module, cutting a module out.

`patterns` is the one language in which modules are named here.
"""
