"""ocpproxy: a caching tile gateway for connectomics volumes (a Twisted daemon)."""

import re
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent

setup(
    name="ocpproxy",
    version=re.search(r'__version__ = "(.+)"', (here / "ocpproxy/_version.py").read_text(encoding="utf-8"))[1],
    description=__doc__,
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    # twisted.plugins has no __init__.py, and must not have one, so it is named here.
    packages=[*find_packages(include=["ocpproxy", "ocpproxy.*"]), "twisted.plugins"],
    package_data={"ocpproxy": ["py.typed", "index/schema/*/*.sql", "web/pages/static/*"]},
    install_requires=[
        "Twisted[tls]>=24.10",
        "treq>=24.9",
        "PyMySQL>=1.1",
        "numpy>=1.26",
        "Pillow>=10",
        "blosc>=1.11",
        "brotli>=1.2",  # the first with a bound on what comes out
        "compressed-segmentation>=2.3",
        "XStatic-Leaflet>=1.9.3,<1.10",  # the pages show slices with it
        "cachetools>=5.3,<9",  # the majors that are tested
        "prometheus_client>=0.20",
        "tqdm>=4.66",
        # The fast deflate of the PNG writer; wheels for x86-64 and arm64. Elsewhere zlib serves.
        "isal>=1.6; platform_machine in 'x86_64 AMD64 aarch64 arm64'",
    ],
    extras_require={
        "tensorstore": ["tensorstore>=0.1.80", "numcodecs>=0.16"],
        "neuroglancer": ["neuroglancer>=2.41"],
        "test": [
            "neuroglancer>=2.41",
            "hypothesis>=6.100",
            "catpy==2020.9.3",
            "tensorstore>=0.1.80",
            "intern>=1.4.2",
            # What others write volumes with: tests.field.
            "numcodecs>=0.16",
            "zarr>=3.1",
            "ome-zarr>=0.12",
            "cloud-volume>=12",
            "z5py>=3",
            "obstore>=0.8",
            "sphinx>=8",
            "furo>=2024.8",
            "myst-parser>=4",
        ],
        "docs": ["sphinx>=8", "furo>=2024.8", "myst-parser>=4"],
        "coverage": ["coverage>=7.10.4"],
        "lint": [
            "ruff>=0.6",
            "mypy>=1.11",
            "mypy-zope>=1.0.7",
            "types-PyMySQL",
            "types-cachetools",
            "types-tqdm",
            "towncrier>=23.11",
        ],
    },
    entry_points={"console_scripts": ["ocpproxy = ocpproxy.cli.main:main"]},
    zip_safe=False,
    classifiers=[
        "Framework :: Twisted",
        "Intended Audience :: Science/Research",
        "Intended Audience :: System Administrators",
        "Programming Language :: Python :: 3.11",
        "Topic :: Internet :: Proxy Servers",
        "Topic :: Scientific/Engineering :: Image Processing",
    ],
)
