"""Reports of an ONNX file for people and programs: provenance, modules, nodes and files, as JSON, Markdown or HTML."""

from optimum_htp.report.document import report_document
from optimum_htp.report.write import FORMATS, check_report_path, write_report

__all__ = ["FORMATS", "check_report_path", "report_document", "write_report"]
