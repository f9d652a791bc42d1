from __future__ import annotations

import signal
import subprocess
import urllib.request
from pathlib import Path

import pytest

from quarterdeck.cli.model import variables
from quarterdeck.errors import OptionError

from .conftest import Cli


def test_variables_are_pairs() -> None:
    assert variables(["a=b=c", "d="]) == {"a": "b=c", "d": ""}
    for bad in ("a", "=b"):
        with pytest.raises(OptionError, match="name=value"):
            variables([bad])


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_it_says_where_it_listens_until_it_is_ended(
    cli: Cli, tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    script = tmp_path / "script.yaml"
    script.write_text("- text: hello ${name}\n")
    process = subprocess.Popen(
        cli.argv("model", "--script", str(script), "--set", "name=x", "--token", "t0ken-t0ken"),
        env=cli.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    word, url = process.stdout.readline().split()
    assert word == "url"
    assert process.stdout.readline() == "token t0ken-t0ken\n"
    with urllib.request.urlopen(
        urllib.request.Request(url + "/", method="HEAD"), timeout=5
    ) as page:
        assert page.status == 200
    process.send_signal(sent)
    _, told = process.communicate(timeout=15)
    assert process.returncode == code, told
    assert (
        f"QUARTERDECK_GATEWAY_TOKEN=t0ken-t0ken quarterdeck run 'hello' --gateway-url {url}" in told
    )
