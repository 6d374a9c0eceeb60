"""Which test files run first, and which run with which stack: their names without `test_`."""

# The longest files, so that no worker runs one alone at the end.
LONGEST = (
    *("plugging_in", "cluster", "batch", "exported_models", "bystanders", "without_connection", "interrupts"),
    *("bridges", "release_action", "report_page", "onnxfile_properties", "code_references", "extract", "export"),
    *("load", "publishing", "pipelines", "cli", "without_optimum_onnx", "bridge_imports", "given_back", "report"),
    *("hostile_onnxfiles", "onnxfile_writes", "export_sources", "export_output", "load_refusals", "load_siblings"),
    *("extract_external", "publishing_links", "publishing_readers"),
)

# Files that take half of the total time. `make test-slow` runs them, not `make test`.
LONG = (
    *("batch", "code_references", "extract", "interrupts", "other_commits", "plugging_in", "renamed_repos"),
    *("sentence_transformers", "slow_hubs", "xet"),
)

# Files whose slow tests run with every stack.
OF_THE_STACK = (
    *("bridge_imports", "bridges", "classes", "diffusion", "end_to_end", "engines", "export_format"),
    *("exported_models", "interrupts", "plain_experts", "plain_exports", "stacks", "traced_files"),
    "without_connection",
)

# Files of tests that do not depend on the versions of transformers, Optimum and huggingface_hub: of this package's
# own code and commands. They run with one stack.
OF_NO_STACK = (
    *("benchmarks", "cluster", "display", "exit_codes", "hostile_files", "hostile_names", "hostile_onnxfiles"),
    *("manual", "masking", "metadata", "onnxfile", "onnxfile_properties", "onnxfile_writes", "outputs"),
    *("page_access", "parsing", "report_page"),
    *("public_names", "publishing", "publishing_links", "publishing_readers", "release_action", "reliability"),
    *("replacing", "replacing_rights", "replacing_together", "run_command", "structure"),
)

# The folders of unit tests (`make test-unit`); these files in them test processes and servers, or are slow.
UNIT = ("fit", "hubs", "metadata", "onnxfile", "origin", "resolve", "stamping")
NO_UNIT = (
    *("hostile_onnxfiles", "model_zoo", "onnxfile_properties", "onnxfile_writes", "replacing", "replacing_rights"),
    *("replacing_together", "xet"),
)
