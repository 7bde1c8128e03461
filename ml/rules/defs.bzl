"""`trained_model`: a model as a build output, by actions that each rerun only when what they read has changed.

    configs/ ──> resolve ──> config.yaml ──┬──> fit ──> network.pt ──> export ──> model.onnx, metrics.json, ...
    @cifar10 ──────────────────────────────┘                             └──> quantise ──> model.int8.onnx

Image files of your own are packed first, once for a configuration, and then take the place of @cifar10:

    trained_model(
        name = "model",
        dataset = ":photos",  # a filegroup: glob(["photos/**"]), with a subfolder for each class, or with a table
        overrides = ["data=folder", "data.image_size=64"],
    )

So an edit in configs/ that leaves this preset's values as they are stops at config.yaml, an edit of the exporter or the
model card trains nothing, and the training action cannot read the test images, because they are not among its inputs.
"""

load(":flags.bzl", "SettingInfo")

_MEMORY_MB = 3000

def _threads_1(_os, _inputs):
    return {"cpu": 1, "memory": _MEMORY_MB}

def _threads_2(_os, _inputs):
    return {"cpu": 1.5, "memory": _MEMORY_MB}

def _threads_4(_os, _inputs):
    return {"cpu": 3.5, "memory": _MEMORY_MB}

def _threads_8(_os, _inputs):
    return {"cpu": 7.5, "memory": _MEMORY_MB}

def _threads_16(_os, _inputs):
    return {"cpu": 15.5, "memory": _MEMORY_MB}

# A resource set is a function that sees the operating system and the inputs' size alone, and stands at the top of its
# file: so there is one for each number of threads. Each asks for half a CPU less than it uses: on as many CPUs as threads
# it can start while one test is running, instead of when no other is.
_RESOURCES = {
    "1": _threads_1,
    "2": _threads_2,
    "4": _threads_4,
    "8": _threads_8,
    "16": _threads_16,
}

THREADS = _RESOURCES.keys()

# What //ml:preset takes: the presets and the experiments of configs/ that train from nothing (a test compares).
PRESETS = [
    "default",
    "full",
    "large",
    "long",
    "record94",
    "record96",
    "reference",
    "short",
    "small",
    "smoke",
    "tiny",
]

# What action.py starts, by the name of the binary that has it in its runfiles.
_PROGRAMS = {
    "card": "ml.rules.write_card",
    "export": "ml.rules.export_model",
    "fit": "ml.rules.fit_model",
    "pack": "ml.rules.pack_images",
    "quantise": "ml.rules.quantise_model",
    "resolve": "ml.rules.resolve_config",
    "seal": "ml.rules.seal_model",
}

def _trained_model_impl(ctx):
    preset = ctx.attr.preset or ctx.attr._preset[SettingInfo].value
    overrides = ctx.attr.overrides + ctx.attr._overrides[SettingInfo].value
    threads = ctx.attr._threads[SettingInfo].value
    folder = "{}/{}".format(ctx.label.name, _folder(preset, overrides, threads))

    def declare(name):
        return ctx.actions.declare_file("{}/{}".format(folder, name))

    def run(tool, mnemonic, message, inputs, outputs, arguments, numerical = True):
        ctx.actions.run(
            executable = getattr(ctx.executable, "_" + tool),
            mnemonic = mnemonic,
            progress_message = "{} %{{label}} ({})".format(message, preset),
            inputs = inputs,
            outputs = outputs,
            arguments = [_PROGRAMS[tool], arguments],
            env = {"OMP_NUM_THREADS": threads} if numerical else {},
            resource_set = _RESOURCES[threads] if numerical else None,
            use_default_shell_env = True,
        )

    config = declare("config.yaml")
    arguments = ctx.actions.args()
    arguments.add("--preset", preset)
    arguments.add_all(overrides, format_each = "--override=%s")
    arguments.add("--output", config)
    run("resolve", "KilnResolve", "Resolving the configuration of", [], [config], arguments, numerical = False)

    dataset = {file.basename: file for file in ctx.files.dataset}
    if "train.bin" not in dataset or "test.bin" not in dataset:
        dataset = {name: declare("dataset/" + name) for name in ("train.bin", "test.bin", "dataset.json")}
        arguments = ctx.actions.args()
        arguments.add("--config", config).add("--images", _images(ctx)).add("--output", dataset["train.bin"].dirname)
        run("pack", "KilnPack", "Packing the images of", [config] + ctx.files.dataset, dataset.values(), arguments)
    train, test = dataset["train.bin"], dataset["test.bin"]
    facts = [dataset["dataset.json"]] if "dataset.json" in dataset else []

    weights, history = declare("network.pt"), declare("history.json")
    arguments = ctx.actions.args()
    arguments.add("--config", config).add("--train", train)
    arguments.add("--weights", weights).add("--history", history)
    run(
        "fit",
        "KilnFit",
        "Training, progress: ml/rules/watch.py,",
        [config, train] + facts,
        [weights, history],
        arguments,
    )

    exported, metrics, drift_reference = declare("exported/model.onnx"), declare("metrics.json"), declare("drift_reference.json")
    arguments = ctx.actions.args()
    arguments.add("--weights", weights).add("--history", history).add("--train", train)
    arguments.add("--model", exported).add("--metrics", metrics).add("--drift-reference", drift_reference)
    run(
        "export",
        "KilnExport",
        "Evaluating and exporting",
        [config, weights, history, train, test] + facts,
        [exported, metrics, drift_reference],
        arguments,
    )

    quantised, quantised_metrics = declare("exported/model.int8.onnx"), declare("metrics.int8.json")
    arguments = ctx.actions.args()
    arguments.add("--config", config).add("--model", exported).add("--train", train)
    arguments.add("--output", quantised).add("--metrics", quantised_metrics)
    run(
        "quantise",
        "KilnQuantise",
        "Quantising",
        [config, exported, train, test] + facts,
        [quantised, quantised_metrics],
        arguments,
    )

    model = _sealed(ctx, exported, declare("model.onnx"))
    int8 = _sealed(ctx, quantised, declare("model.int8.onnx"))

    card = declare("model_card.html")
    arguments = ctx.actions.args()
    arguments.add("--model", model).add("--metrics", metrics).add("--history", history).add("--config", config)
    arguments.add("--reproduce", _command(ctx, preset, threads)).add("--output", card)
    run("card", "KilnCard", "Writing the card of", [model, metrics, history, config], [card], arguments, numerical = False)

    return [
        DefaultInfo(files = depset([model])),
        OutputGroupInfo(
            checkpoint = depset([weights]),
            config = depset([config]),
            drift_reference = depset([drift_reference]),
            everything = depset([config, weights, history, model, metrics, drift_reference, card]),
            history = depset([history]),
            metrics = depset([metrics]),
            model = depset([model]),
            model_card = depset([card]),
            model_int8 = depset([int8]),
        ),
    ]

def _images(ctx):
    """The table among the files of the dataset, else the folder that all of them are in."""
    files = ctx.files.dataset
    tables = [file.path for file in files if file.extension in ("csv", "tsv", "parquet")]
    if len(tables) > 1 or not files:
        fail("{}: dataset {} has neither train.bin and test.bin nor one folder of images or one table of them".format(
            ctx.label,
            ctx.attr.dataset.label,
        ))
    if tables:
        return tables[0]
    shared = files[0].dirname.split("/")
    for file in files:
        parts = file.dirname.split("/")
        common = 0
        for one, other in zip(shared, parts):
            if one != other:
                break
            common += 1
        shared = shared[:common]
    return "/".join(shared)

def _command(ctx, preset, threads):
    """What a user types to build this very model."""
    flags = [] if ctx.attr.preset else ["--//ml:preset=" + preset]
    flags.append("--//ml:threads=" + threads)
    flags += ["'--//ml:overrides={}'".format(override) for override in ctx.attr._overrides[SettingInfo].value]
    return "./tools/bazel build {} {}".format(" ".join(flags), str(ctx.label).lstrip("@"))

def _folder(preset, overrides, threads):
    """A folder for each choice, so that going back to one finds it built."""
    choice = ["threads=" + threads] + overrides
    return "{}-{}".format(preset, "%x" % (hash("\n".join(choice)) & 0xffffffff))

def _sealed(ctx, exported, sealed):
    """With --stamp a copy that names the revision, else the exported file itself, so that a commit alone changes nothing."""
    if not ctx.attr.stamp:
        ctx.actions.symlink(output = sealed, target_file = exported)
        return sealed
    arguments = ctx.actions.args()
    arguments.add("--model", exported).add("--status", ctx.info_file).add("--output", sealed)
    ctx.actions.run(
        executable = ctx.executable._seal,
        mnemonic = "KilnSeal",
        progress_message = "Writing the revision into %{output}",
        inputs = [exported, ctx.info_file],
        outputs = [sealed],
        arguments = [_PROGRAMS["seal"], arguments],
        use_default_shell_env = True,
    )
    return sealed

def _tool(name):
    return attr.label(
        cfg = "exec",
        default = Label("//ml/rules:" + name),
        executable = True,
    )

trained_model = rule(
    implementation = _trained_model_impl,
    attrs = {
        "dataset": attr.label(
            default = Label("@cifar10//:cifar10"),
            allow_files = True,
            doc = "train.bin and test.bin in CIFAR-10's binary layout, or image files, or a table and the files that it names.",
        ),
        "overrides": attr.string_list(doc = "Hydra overrides, before those of --//ml:overrides."),
        "preset": attr.string(doc = "Name of an experiment, or default; empty: what --//ml:preset says."),
        "stamp": attr.bool(doc = "Whether the files name the revision: a select() over --stamp."),
        "_card": _tool("card_action"),
        "_export": _tool("export"),
        "_fit": _tool("fit"),
        "_overrides": attr.label(default = Label("//ml:overrides")),
        "_pack": _tool("pack"),
        "_preset": attr.label(default = Label("//ml:preset")),
        "_quantise": _tool("quantise"),
        "_resolve": _tool("resolve"),
        "_seal": _tool("seal"),
        "_threads": attr.label(default = Label("//ml:threads")),
    },
    doc = "The model of a preset: model.onnx; the rest is in output groups.",
)
