"""A Hub in a folder of git repos (`acme://org/name` is `$ACME_HUB/org/name.git`), with its hooks."""

import os
import shutil
import subprocess
from pathlib import Path

import optimum_htp
from optimum_htp.errors import ModelNotFoundError, RevisionNotFoundError
from optimum_htp.hubs import Hub, RepoInfo


class AcmeHub(Hub):
    name = "acme"

    def info(self, repo_id, revision, access):
        commit = self.full_commit(repo_id, revision or self.default_revision, access)
        files = git(repo_id, "ls-tree", "-r", "-z", "--name-only", commit).decode().split("\0")
        return RepoInfo(repo_id=repo_id, commit=commit, files=tuple(filter(None, files)), author="Acme")

    def cached_commit(self, repo_id, revision, access):
        return None  # it needs no cache: the folder is always available

    def full_commit(self, repo_id, prefix, access):
        try:
            return git(repo_id, "rev-parse", "--verify", "--end-of-options", f"{prefix}^{{commit}}").decode().strip()
        except subprocess.CalledProcessError as error:
            raise RevisionNotFoundError(f"{repo_id} of Acme has no revision {prefix}.") from error

    def snapshot(self, repo_id, commit, files, access, *, optional=(), ref=None, progress=False):
        folder = Path(access.cache_dir or Path.home() / ".cache" / "acme", repo_id, commit)
        there = self.info(repo_id, commit, access).files
        for name in {*files, *optional} & {*there}:
            if access.force_download or not (folder / name).exists():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                new = folder / f"{name}.{os.getpid()}"
                new.write_bytes(git(repo_id, "cat-file", "blob", f"{commit}:{name}"))
                new.replace(folder / name)
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def git(repo_id, *arguments):
    repo = Path(os.environ["ACME_HUB"], f"{repo_id}.git")
    if not repo.is_dir():
        raise ModelNotFoundError(f"Acme has no model {repo_id}.")
    return subprocess.run(["git", "-C", repo, *arguments], check=True, capture_output=True).stdout


@optimum_htp.hookimpl
def optimum_htp_hubs():
    return [AcmeHub()]


@optimum_htp.hookimpl
def optimum_htp_metadata(metadata, info):
    return {"acme_owner": info.author} if metadata.hub_provider == "acme" and info else {}


@optimum_htp.hookimpl
def optimum_htp_commands():
    return [optimum_htp.CommandEntry("acme", "List the models of Acme.", "acme_command:AcmeCommand")]


class Folder(optimum_htp.Destination):
    name = "copied"

    def add_arguments(self, parser):
        parser.add_argument("--copy-to", metavar="FOLDER", help="Then copy the files to this folder.")

    def send(self, args, files):
        return {"files": [shutil.copy(file, args.copy_to) for file in files]} if args.copy_to else None

    def lines(self, result):
        return [f"Copied to {file}" for file in result["files"]]


@optimum_htp.hookimpl
def optimum_htp_destinations():
    return [Folder()]
