import io
import logging

import pytest
from rich.table import Table

from echojax.command_line import Terminal, log_to, parse
from echojax.commands.evaluate import Flags


def test_ids_titles_and_paths_are_printed_as_they_are():
    names = ["urn:book:2", "r[lr=3]", "[/x]", "a\xa0b", "Zoë"]
    table = Table("item")
    for name in [*names, "\x1b[31mred\x9b"]:
        table.add_row(name)
    out = io.StringIO()
    terminal = Terminal(file=out, width=80)
    terminal.print(table)
    terminal.print("urn:book:2 [bold]\x1b]0;title\x07\n[/x]")
    printed = out.getvalue()
    assert all(name in printed for name in names)
    names = ["\u202eabc", "a\u200bb", "a\u2028b", "\ufeffa"]
    for name in names:
        terminal.print(name)
        assert name not in out.getvalue()
    assert "\\u202eabc\na\\u200bb\na\\u2028b\n\\ufeffa\n" in out.getvalue()
    joined = "\u0645\u06cc\u200c\u062e \U0001f468\u200d\U0001f469"
    terminal.print(joined)
    assert joined in out.getvalue()
    assert "\\x1b[31mred\\x9b" in printed
    assert "urn:book:2 [bold]\\x1b]0;title\\x07\n[/x]\n" in printed


def test_a_log_line_is_printed_once(capsys):
    """Libraries give the root logger a handler of its own when they are imported."""
    root = logging.StreamHandler()
    logging.root.addHandler(root)
    try:
        for _ in range(2):
            log_to(Terminal(file=(out := io.StringIO()), width=80))
        logging.getLogger("echojax.data").info("data: [/x] 100 %")
    finally:
        logging.root.removeHandler(root)
    assert out.getvalue() == "data: [/x] 100 %\n"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ([], None),
        (["--exclude-seen"], True),
        (["--no-exclude-seen"], False),
        (["--exclude_seen", "--ks", "5"], True),
        (["--exclude-seen", "False"], False),
        (["--exclude-seen=True"], True),
    ],
)
def test_a_switch_that_may_be_left_out_needs_no_value(words, value):
    assert parse(Flags, args=[*words, "--run-dir", "run"]).exclude_seen is value
