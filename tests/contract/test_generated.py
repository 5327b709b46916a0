"""What is generated or shipped agrees with the code, and the contract package stays light."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from msgspec import Struct

from dtesn_api import names
from dtesn_api.schema import environment_name, fields, walk
from dtesn_api.spec import DTESNBatcherSpec, parse_manifest
from dtesn_sidecar.config import load_configuration

ROOT = Path(__file__).resolve().parents[2]
FULL = ROOT / "examples" / "dtesnbatcher-full.yaml"


def generate(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "generate.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_generated_files_are_up_to_date() -> None:
    done = generate("--check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_generated_file_that_was_changed_by_hand_is_found(tmp_path: Path) -> None:
    assert generate("--check", "--root", str(tmp_path)).returncode == 1
    assert generate("--root", str(tmp_path)).returncode == 0
    assert generate("--check", "--root", str(tmp_path)).returncode == 0
    page = tmp_path / "docs" / "configuration.md"
    page.write_text(page.read_text().replace("from 1 to 16", "from 1 to 17"))
    done = generate("--check", "--root", str(tmp_path))
    assert done.returncode == 1
    assert "-| `membraneDepth` | integer | `4` | from 1 to 17" in done.stdout
    assert "from 1 to 17" in page.read_text()


def test_the_reference_has_every_field_and_every_variable() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    for place in walk(DTESNBatcherSpec):
        assert f"| `{place.field.wire}` |" in page
        if place.field.section is None and place.applies != "operator":
            assert f"`{environment_name(place.path)}`" in page


def test_the_full_example_is_the_defaults_written_out() -> None:
    assert load_configuration(FULL, {}).spec == DTESNBatcherSpec()


def test_the_full_example_names_every_field() -> None:
    whole = yaml.safe_load(re.sub(r"^( +)# (\w+: )", r"\1\2", FULL.read_text(), flags=re.MULTILINE))

    def check(section: Struct, written: dict[str, object]) -> None:
        assert list(written) == [field.wire for field in fields(type(section))]
        for field in fields(type(section)):
            if isinstance(field.default, Struct):
                below = written[field.wire]
                assert isinstance(below, dict)
                check(field.default, below)

    check(DTESNBatcherSpec(), whole["spec"])


@pytest.mark.parametrize("line", [line for line in FULL.read_text().splitlines() if re.match(r" +# \w+: ", line)], ids=str.strip)
def test_each_absent_field_of_the_full_example_can_be_given(line: str) -> None:
    text = FULL.read_text().replace(line, line.replace("# ", "", 1))
    if "activationQuery" in line:
        text = text.replace("# prometheusUrl", "prometheusUrl")
    assert parse_manifest(yaml.safe_load(text)) != DTESNBatcherSpec()


def test_the_short_example_is_a_valid_manifest() -> None:
    spec = load_configuration(ROOT / "examples" / "dtesnbatcher.yaml", {}).spec
    assert (spec.batching.target_batch_size, spec.batching.max_batch_size, spec.batching.default_timeout) == (12, 48, 2.0)


def test_the_contract_package_imports_the_standard_library_and_msgspec_alone() -> None:
    modules = ["problems", "schema", "reading", "spec", "status", "wire", "bodies", "inference", "names"]
    script = (
        "import sys; before = set(sys.modules)\n"
        + "\n".join(f"import dtesn_api.{module}" for module in modules)
        + "\nprint(*sorted({name.partition('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    # msgspec itself takes typing_extensions where it is installed.
    assert set(done.stdout.split()) - {"typing_extensions"} == {"dtesn_api", "msgspec"}


def test_names_keep_their_forms() -> None:
    constants = {name: value for name, value in vars(names).items() if name.isupper()}
    metrics = {value for name, value in constants.items() if name.startswith("METRIC_")}
    assert len(metrics) == len([name for name in constants if name.startswith("METRIC_")])
    assert all(re.fullmatch(r"dtesn(_[a-z]+)+", metric) for metric in metrics)
    assert names.API_VERSION == "dtesn.dev/v1alpha1"
    assert DTESNBatcherSpec().sidecar.port == names.DEFAULT_PORT
