"""What runs foreign code, or lets a shell read a text, is nowhere in toolkit/; SECURITY.md says why."""

import ast
from pathlib import Path

import pytest

TOOLKIT = Path(__file__).parents[2] / "toolkit"
MODULES = sorted(TOOLKIT.rglob("*.py"))

# Libraries that unpickle, or start what a text says.
FORBIDDEN_LIBRARIES = {"cPickle", "cloudpickle", "commands", "dill", "joblib", "marshal", "pty", "runpy", "shelve"}
FORBIDDEN_CALLS = {
    "compile",
    "eval",
    "exec",
    "execfile",
    "numpy.fromregex",
    "os.popen",
    "os.system",
    "pandas.read_pickle",
    "pickle.Unpickler",
    "pickle.load",
    "pickle.loads",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
    "torch.hub.load",
    "torch.package.PackageImporter",
    "yaml.full_load",
    "yaml.full_load_all",
    "yaml.load_all",
    "yaml.unsafe_load",
    "yaml.unsafe_load_all",
}
# By the function's last name, as objects have them too; `__import__` and friends by any name.
FORBIDDEN_ENDINGS = {"__import__", "exec_module", "load_module", "read_pickle", "system"}
FORBIDDEN_OPTIONS = {
    "allow_pickle": True,
    "shell": True,
    "trust_remote_code": True,
    "weights_only": False,
    "allow_all_kernels": True,
    "allow_dangerous_deserialization": True,
}
# An exception type may be named; nothing else of pickle may.
FROM_PICKLE = {"pickle.UnpicklingError"}
SAFE_LOADERS = {"_Loader", "_CatalogLoader", "loader"}


def called(node: ast.expr, names: dict[str, str]) -> str:
    """Dotted name of what is called, by the library's own name where it was imported under another."""
    first, _, rest = ast.unparse(node).partition(".")
    return f"{names.get(first, first)}.{rest}" if rest else names.get(first, first)


def imported(tree: ast.Module) -> dict[str, str]:
    """Name in the file -> what it is."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.split(".")[0]
                names[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {(alias.asname or alias.name): f"{node.module}.{alias.name}" for alias in node.names}
    return names


def faults(source: str) -> list[str]:
    """What the source does that no module may, with its line."""
    tree = ast.parse(source)
    names = imported(tree)
    found = [f"{what} is imported" for what in names.values() if what.split(".")[0] in FORBIDDEN_LIBRARIES]
    found += [
        f"{what} is imported" for what in names.values() if what.startswith("pickle.") and what not in FROM_PICKLE
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and names.get(ast.unparse(node.value)) == "pickle":
            found += [f"{node.lineno}: pickle.{node.attr}"] if f"pickle.{node.attr}" not in FROM_PICKLE else []
        if not isinstance(node, ast.Call):
            continue
        name = called(node.func, names)
        if name in FORBIDDEN_CALLS or name.rpartition(".")[2] in FORBIDDEN_ENDINGS:
            found.append(f"{node.lineno}: {name}()")
        for keyword in node.keywords:
            if keyword.arg in FORBIDDEN_OPTIONS:
                # Said outright, and not with the one value; a variable could be anything.
                value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
                if value is not (not FORBIDDEN_OPTIONS[keyword.arg]):
                    found.append(f"{node.lineno}: {keyword.arg}={ast.unparse(keyword.value)}")
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if name == "torch.load" and "weights_only" not in options:
            found.append(f"{node.lineno}: torch.load() without weights_only=True")
        if name == "yaml.load" and options.get("Loader") not in SAFE_LOADERS:
            found.append(f"{node.lineno}: yaml.load() with {options.get('Loader')}")
    return found


def test_the_toolkit_does_none_of_it() -> None:
    found = [
        f"{path.relative_to(TOOLKIT)}:{fault}" for path in MODULES for fault in faults(path.read_text(encoding="utf-8"))
    ]
    assert not found


def test_the_loaders_of_yaml_are_safe_ones() -> None:
    import yaml

    from toolkit.specs import base, reading

    for loader in (reading.BoundedLoader, base._CatalogLoader):
        assert issubclass(loader, yaml.constructor.SafeConstructor)
        assert not issubclass(loader, yaml.constructor.FullConstructor)
    assert reading.parse_yaml.__kwdefaults__ == {"loader": reading.BoundedLoader}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.loads(x)",
        "import pickle as p\np.load(x)",
        "import pickle\nread = pickle.load",
        "from pickle import Unpickler",
        "from pickle import loads as read\nread(x)",
        "import dill",
        "import joblib.numpy_pickle",
        "from marshal import loads",
        "eval(x)",
        "exec(x)",
        "compile(x, 'f', 'exec')",
        "__import__(x)",
        "import os\nos.system(x)",
        "from os import system\nsystem(x)",
        "from os import system as run\nrun(x)",
        "import os\nos.popen(x)",
        "import subprocess\nsubprocess.run(x, shell=True)",
        "import subprocess\nsubprocess.run(x, shell=s)",
        "import subprocess\nsubprocess.getoutput(x)",
        "import torch\ntorch.load(x)",
        "import torch\ntorch.load(x, weights_only=False)",
        "import torch\ntorch.load(x, weights_only=None)",
        "import torch\ntorch.load(x, weights_only=safe)",
        "from torch import load\nload(x)",
        "import numpy as np\nnp.load(x, allow_pickle=True)",
        "import pandas as pd\npd.read_pickle(x)",
        "frame.read_pickle(x)",
        "import yaml\nyaml.load(x, Loader=yaml.Loader)",
        "import yaml\nyaml.load(x, Loader=yaml.FullLoader)",
        "import yaml\nyaml.load(x)",
        "import yaml\nyaml.unsafe_load(x)",
        "AutoConfig.from_pretrained(x, trust_remote_code=True)",
        "AutoConfig.from_pretrained(x, trust_remote_code=recipe.trust)",
    ],
)
def test_each_of_these_would_be_found(source: str) -> None:
    assert faults(source)


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\ntry: f()\nexcept pickle.UnpicklingError: pass",
        "import pickletools\npickletools.genops(x)",
        "import torch\ntorch.load(x, weights_only=True)",
        "import subprocess\nsubprocess.run([x], shell=False)",
        "import re\nre.compile(x)",
        "model.eval()",
        "import yaml\nyaml.safe_load(x)",
        "AutoTokenizer.from_pretrained(x, trust_remote_code=False)",
    ],
)
def test_what_is_allowed(source: str) -> None:
    assert not faults(source)
