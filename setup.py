"""Packaging: everything is read from settings.ini, which nbdev reads too."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(here / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]


def listed(name: str) -> list[str]:
    "The lines of a setting that holds one requirement per line."
    return [line.strip() for line in cfg.get(name, "").splitlines() if line.strip()]


extras = {name: listed(f"{name}_requirements") for name in ("speech", "text", "offline", "minilm", "praat", "onnx")}
extras["dev"] = listed("dev_requirements") + extras["speech"] + extras["praat"] + extras["onnx"]
assets = here / "mtep" / "assets"

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    license="Apache-2.0",
    keywords=cfg["keywords"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Natural Language :: English",
        "Programming Language :: Python :: 3",
        "Topic :: Multimedia :: Sound/Audio :: Speech",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    packages=find_packages(include=["mtep", "mtep.*"]),
    package_data={"mtep": [path.relative_to(assets.parent).as_posix() for path in assets.rglob("*") if path.is_file()]},
    include_package_data=False,
    python_requires=f">={cfg['min_python']}",
    install_requires=listed("requirements"),
    extras_require=extras,
    entry_points={
        "console_scripts": listed("console_scripts"),
        "nbdev": [f"{cfg['lib_name']}={cfg['lib_path']}._modidx:d"],
    },
    zip_safe=False,
)
