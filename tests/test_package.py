"""The wheel holds everything: built, installed outside of the checkout, and read there."""

import json
import subprocess
import sys

import pytest


@pytest.mark.timeout(300)
def test_wheel_carries_every_asset(root, tmp_path):
    wheels, target = tmp_path / "wheels", tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(wheels), str(root)], check=True)
    (wheel,) = wheels.glob("mtep-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(target), str(wheel)], check=True)
    assets = root / "mtep" / "assets"
    names = [path.relative_to(assets).as_posix() for path in assets.rglob("*") if path.is_file()]
    probe = (
        "import sys, json; from importlib.resources import files; import mtep; "
        "names = json.loads(sys.argv[1]); print(mtep.__file__); "
        "print(sum(len(files('mtep').joinpath('assets', *n.split('/')).read_bytes()) for n in names))"
    )

    run = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(target)!r}); " + probe, json.dumps(names)],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    where, size = run.stdout.split()
    assert str(target) in where
    assert int(size) == sum((assets / name).stat().st_size for name in names)
    modules = {path.relative_to(root).as_posix() for path in (root / "mtep").rglob("*.py")}
    assert modules <= {path.relative_to(target).as_posix() for path in (target / "mtep").rglob("*.py")}
