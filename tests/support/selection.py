"""Which test files begin, and which are run with which stack: their names without `test_`."""

# Those that take longest, so that no worker is left alone with one of them at the end.
LONGEST = (
    *("plugging_in", "cluster", "batch", "exported_models", "bystanders", "without_connection", "interrupts"),
    *("bridges", "release_action", "report_page", "onnxfile_properties", "code_references", "extract", "export"),
    *("load", "publishing", "pipelines", "cli", "without_optimum_onnx", "bridge_imports", "given_back", "report"),
    *("hostile_onnxfiles", "onnxfile_writes", "export_sources", "export_output", "load_refusals", "load_siblings"),
    *("extract_external", "publishing_links", "publishing_readers"),
)

# Those that take half of the time of the others together. `make test` leaves them to `make test-slow`.
LONG = (
    *("batch", "code_references", "extract", "interrupts", "other_commits", "plugging_in", "renamed_repos"),
    *("sentence_transformers", "slow_hubs", "xet"),
)

# Those whose slow tests are run with every stack.
OF_THE_STACK = (
    *("bridge_imports", "bridges", "classes", "diffusion", "end_to_end", "engines", "export_format"),
    *("exported_models", "interrupts", "plain_experts", "plain_exports", "stacks", "traced_files"),
    "without_connection",
)

# Those that try code of this package and the commands alone, whose answers do not depend on the versions of
# transformers, Optimum and huggingface_hub. They are run with one stack.
OF_NO_STACK = (
    *("benchmarks", "cluster", "display", "exit_codes", "hostile_files", "hostile_names", "hostile_onnxfiles"),
    *("manual", "masking", "metadata", "onnxfile", "onnxfile_properties", "onnxfile_writes", "outputs", "parsing"),
    *("public_names", "publishing", "publishing_links", "publishing_readers", "release_action", "reliability"),
    *("replacing", "replacing_rights", "replacing_together", "run_command", "structure"),
)

# The packages whose tests of no model are the unit tests (`make test-unit`), but for those of processes and servers.
UNIT = ("fit", "hubs", "metadata", "onnxfile", "origin", "resolve", "stamping")
NO_UNIT = (
    *("hostile_onnxfiles", "model_zoo", "onnxfile_properties", "onnxfile_writes", "replacing", "replacing_rights"),
    *("replacing_together", "xet"),
)
