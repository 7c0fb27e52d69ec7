"""A hook of mkdocs: the site mirrors the repository, so that no text and no picture is copied.

The pages link to what is not under ``docs/``: the README, the measurements, their pictures. Here
every page and file gets the place on the site that it has in the repository. A relative link is
then the same on the site, in a checkout and where the repository is hosted, and
``mkdocs build --strict`` checks the links of the README too.
"""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

# The pages, and whatever they may link to.
SHOWN = (
    "*.md",
    "LICENSE",
    "CITATION.cff",
    "docs/*.md",
    "kernels/README.md",
    "kernels/examples/*.py",
    "experiments/quickstart.ipynb",
    "echojax/recipes/*.toml",
    "echojax/suites/included/*.toml",
    *(f"benchmarks/{kind}" for kind in ("*.md", "*.json", "*.png")),
    *(f"benchmarks/*/{kind}" for kind in ("*.md", "*.json", "*.csv", "*.png", "*.svg")),
    *(f"benchmarks/results/*/{kind}" for kind in ("*.md", "*.html", "*.png", "*.svg")),
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace the files of ``docs/`` by those of the repository; the theme's own stay."""
    root = Path(config.config_file_path).parent
    for file in list(files):
        if file.src_dir == config.docs_dir:
            files.remove(file)
    for pattern in SHOWN:
        for path in sorted(root.glob(pattern)):
            place = path.relative_to(root).as_posix()
            files.append(File(place, str(root), config.site_dir, config.use_directory_urls))
    return files
