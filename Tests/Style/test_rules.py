"""Plants a violation of every style rule in a scratch tree and expects `rules.py` to find it, and to let look-alikes be."""

import os
import subprocess
import sys
import tempfile
import unittest

RULES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "rules.py")


class StyleRules(unittest.TestCase):
    def check(self, path, source):
        with tempfile.TemporaryDirectory() as root:
            full = os.path.join(root, path)
            os.makedirs(os.path.dirname(full), exist_ok=True)
            with open(full, "w") as stream:
                stream.write(source)
            result = subprocess.run([sys.executable, RULES, root], stdout=subprocess.PIPE, universal_newlines=True)
            return result.returncode, result.stdout

    def assert_found(self, path, line, replacement):
        status, output = self.check(path, "// What it is for.\n" + line + "\n")
        self.assertEqual(status, 1, "not found: %r in %s" % (line, path))
        self.assertIn(path + ":2:", output)
        self.assertIn(replacement, output)

    def assert_fine(self, path, source):
        status, output = self.check(path, "// What it is for.\n" + source + "\n")
        self.assertEqual((status, output), (0, ""))

    def test_forbidden_imports_in_the_core_are_found(self):
        for module in ("Foundation", "FoundationEssentials"):
            self.assert_found("Sources/SidecarCore/Wire/A.swift", "import " + module, "standard library")
        for module in ("Glibc", "Dispatch", "CUV", "CZlib"):
            self.assert_found("Sources/SidecarCore/A.swift", "import " + module, "Driver")
        self.assert_found("Sources/SidecarCore/A.swift", "@preconcurrency import Dispatch", "Driver")
        self.assert_found("Sources/SidecarCore/A.swift", "private import func Glibc.memcpy", "Driver")

    def test_libuv_outside_its_target_is_found(self):
        self.assert_found("Sources/micro-sidecar/main.swift", "import CUV", "SidecarUV only")
        self.assert_found("Sources/SidecarBuiltins/A.swift", "import CUV", "SidecarUV")
        self.assert_fine("Sources/SidecarUV/A.swift", "import CUV\nimport Glibc")

    def test_clocks_and_sleeps_are_found(self):
        self.assert_found("Sources/SidecarCore/A.swift", "try await Task.sleep(for: .seconds(1))", "driver.timers")
        for clock in ("ContinuousClock.now", "let c = SuspendingClock()", "Date()", "Date (timeIntervalSince1970: 0)"):
            self.assert_found("Sources/SidecarCore/A.swift", clock, "driver.now")

    def test_unseeded_randomness_is_found(self):
        self.assert_found("Sources/SidecarCore/A.swift", "var g = SystemRandomNumberGenerator()", "driver.random")
        for draw in ("Int.random(in: 0..<9)", "UInt64.random (in: a...b)", "nodes.randomElement()", "list.shuffled( )"):
            self.assert_found("Sources/SidecarCore/A.swift", draw, "driver.random")
        self.assert_fine("Sources/SidecarCore/A.swift", "let x = Int.random(in: 0..<9, using: &random)")
        self.assert_fine("Sources/SidecarCore/A.swift", "let x = nodes.randomElement(using: &random)")

    def test_printing_in_the_core_is_found(self):
        self.assert_found("Sources/SidecarCore/A.swift", 'print("x")', "runner logs")
        self.assert_fine("Sources/SidecarCore/A.swift", "json.print(to: sink)\nfingerprint(x)")

    def test_unfinished_work_is_found(self):
        for word in ("TO" + "DO", "FIX" + "ME"):
            self.assert_found("Tests/X/A.swift", "// %s: later" % word, "finish it")

    def test_long_files_are_found(self):
        status, output = self.check("Sources/SidecarCore/A.swift", "// Long.\n" * 901)
        self.assertEqual(status, 1)
        self.assertIn("more than 900 lines", output)
        self.assertEqual(self.check("Sources/SidecarCore/A.swift", "// Long.\n" * 900), (0, ""))

    def test_a_file_without_a_purpose_is_found(self):
        status, output = self.check("Sources/SidecarCore/A.swift", "struct A {}\n")
        self.assertEqual(status, 1)
        self.assertIn("what it is for", output)

    def test_comments_and_strings_may_speak_of_anything(self):
        self.assert_fine(
            "Sources/SidecarCore/A.swift",
            "/* import Glibc /* Task.sleep */ Date() */\n"
            'let a = "print(1) \\(name("Date()")) Task.sleep"\n'
            'let b = """\n  import Foundation\n  """\n'
            "/// Never `ContinuousClock`.\n",
        )

    def test_code_after_a_string_is_still_seen(self):
        self.assert_found("Sources/SidecarCore/A.swift", 'let a = "x \\(b)"; print(a)', "runner logs")


if __name__ == "__main__":
    unittest.main()
