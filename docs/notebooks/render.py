"""An mkdocs hook that executes the notebooks of this folder and makes pages of them.

Markdown instead of HTML of its own, so that notebooks look like all pages, and their links are checked like all links.
A cell that draws a picture says what is on it in its metadata, as `alt`.
"""

import os
import re
import tempfile
from pathlib import Path

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[2]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each notebook; the notebook itself stays, to be downloaded."""
    for source in [file for file in files if file.src_uri.endswith(".ipynb")]:
        stem = Path(source.src_uri).stem
        notebook = execute(Path(str(source.abs_src_path)))
        resources = {"unique_key": stem, "output_files_dir": f"{stem}_files"}
        page, resources = MarkdownExporter().from_notebook_node(notebook, resources)
        texts = iter([cell.metadata.alt for cell in notebook.cells if "alt" in cell.metadata])
        page = re.sub(r"!\[png\]", lambda _, texts=texts: f"![{next(texts)}]", page)
        folder = Path(source.src_uri).parent.as_posix()
        files.append(File.generated(config, f"{folder}/{stem}.md", content=page))
        for name, content in resources["outputs"].items():
            files.append(File.generated(config, f"{folder}/{name}", content=content))
    return files


def execute(path: Path) -> nbformat.NotebookNode:
    """The notebook with its outputs, run in an empty folder, on the packages of this working tree.

    Raises:
        PluginError: if a cell raises; the message holds the traceback.
    """
    notebook = nbformat.read(path, as_version=4)
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources)
        client.extra_arguments = ["--IPKernelApp.log_level=40"]
        try:
            return client.execute(env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)})
        except CellExecutionError as error:
            raise PluginError(f"{path.name}: {error}") from error
