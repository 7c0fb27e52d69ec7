"""Nothing is executed out of data: what the product's code may never call."""

import ast
import re
from pathlib import Path

import pytest

from echojax.errors import UserError, exit_on_user_error

ROOT = Path(__file__).parent.parent
FILES = sorted(
    p for folder in ("echojax", "kernels", "experiments") for p in (ROOT / folder).rglob("*.py")
)

CALLS = {
    "eval", "exec", "compile", "__import__", "breakpoint", "os.system", "os.popen", "os.execv",
    "pickle.load", "pickle.loads", "marshal.load", "marshal.loads", "yaml.load", "joblib.load",
    "torch.load", "pd.read_pickle", "shutil.unpack_archive",
    "urllib.request.urlopen", "ssl._create_unverified_context", "tempfile.mktemp",
    "subprocess.getoutput", "subprocess.getstatusoutput", "importlib.import_module",
}  # fmt: skip
METHODS = {"extract", "extractall", "load_module", "exec_module"}
MODULES = {
    "pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "shelve",
    "marshal",
    "joblib",
    "yaml",
    "code",
}
KEYWORDS = {("shell", True), ("allow_pickle", True), ("verify", False), ("check_hostname", False)}


def violations(source):
    """Return what in a file's code is forbidden."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            yield from (f"import {n}" for n in names if n.split(".")[0] in MODULES)
        if isinstance(node, ast.Constant) and re.match("http://(?!127.0.0.1:)", str(node.value)):
            yield f"address without TLS: {node.value}"
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        if called in CALLS or called.startswith("runpy."):
            yield called
        if isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
            yield called
        if called in ("np.load", "numpy.load") and "allow_pickle" not in given:
            yield "np.load without allow_pickle=False"
        for name, value in given.items():
            if isinstance(value, ast.Constant) and (name, value.value) in KEYWORDS:
                yield f"{name}={value.value}"


@pytest.mark.parametrize(
    "line",
    [
        "eval('1')", "import pickle", "from yaml import load", "np.load(path)",
        "np.load(path, allow_pickle=True)", "subprocess.run(x, shell=True)", "os.system('ls')",
        "archive.extractall(path)", "url = 'http://example.org/x'", "torch.load(path)",
    ],
)  # fmt: skip
def test_the_search_finds(line):
    assert list(violations(line))


# Modules of echojax's own, by their names, and what the user names by --plugin.
ALLOWED = {
    ("echojax/__init__.py", "importlib.import_module"),
    ("echojax/plugins.py", "importlib.import_module"),
    ("echojax/plugins.py", "spec.loader.exec_module"),
}


def test_no_code_executes_data():
    assert len(FILES) > 100
    found = {
        (str(path.relative_to(ROOT)), what)
        for path in FILES
        for what in violations(path.read_text())
    }
    assert found == ALLOWED


def test_error_lines_show_what_terminals_obey(capsys):
    with pytest.raises(SystemExit), exit_on_user_error():
        raise UserError("line 1: time '\x1b[31mred\x1b[0m\n\x07' is odd")
    assert capsys.readouterr().err == "error: line 1: time '\\x1b[31mred\\x1b[0m \\x07' is odd\n"
