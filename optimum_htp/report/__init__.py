"""Reports of an ONNX file for people and programs: provenance, modules, nodes and files, as JSON, Markdown or HTML.

Empty, because every command of optimum-cli imports `report/texts.py`.
"""
