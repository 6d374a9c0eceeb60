"""Reports of ONNX files as JSON, Markdown or HTML: provenance, modules, nodes and files.

Imports nothing, because every command of optimum-cli imports `report/texts.py`.
"""
