#!/usr/bin/env python3
"""Runs the black-box tests and ends with one line: `interop: N passed, N failed, N skipped`.

    run.py [--binary PATH] [-l] [PATTERN...]      tests whose name contains one of the patterns, or all
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))


class Report(unittest.TestResult):
    """One line per test as it ends; a failure brings the output of the processes it ran."""

    def __init__(self):
        super().__init__()
        self.passed, self.begun = 0, 0.0

    def startTest(self, test):
        super().startTest(test)
        self.begun = time.monotonic()

    def line(self, mark, test, note=""):
        took = time.monotonic() - self.begun
        print("%-7s %s (%.2f s)%s" % (mark, name_of(test), took, note and ": " + note), flush=True)

    def addSuccess(self, test):
        self.passed += 1
        self.line("ok", test)

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.line("SKIPPED", test, reason)

    def bad(self, test, error):
        self.line("FAILED", test)
        print(self._exc_info_to_string(error, test) + (test.explain() if hasattr(test, "explain") else ""), flush=True)

    def addFailure(self, test, error):
        super().addFailure(test, error)
        self.bad(test, error)

    def addError(self, test, error):
        super().addError(test, error)
        self.bad(test, error)

    def addSubTest(self, test, subtest, error):
        super().addSubTest(test, subtest, error)
        if error:
            print("  in %s" % subtest._subDescription())
            self.bad(test, error)


def name_of(test):
    return test.id().replace("test_", "", 1) if hasattr(test, "id") else str(test)


def flatten(suite):
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from flatten(item)
        else:
            yield item


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--binary", default=".build/release/micro-sidecar")
    parser.add_argument("-l", action="store_true", dest="list", help="only list the tests")
    parser.add_argument("patterns", nargs="*")
    arguments = parser.parse_args()
    os.environ["MICRO_SIDECAR_BINARY"] = arguments.binary if not arguments.list else sys.executable
    sys.path.insert(0, HERE)
    tests = list(flatten(unittest.TestLoader().discover(HERE, top_level_dir=HERE)))
    wanted = [t for t in tests if not arguments.patterns or any(p.lower() in t.id().lower() for p in arguments.patterns)]
    if arguments.list:
        print("\n".join(name_of(test) for test in wanted))
        return 0
    if not wanted:
        print("no test's name contains any of: " + ", ".join(arguments.patterns))
        return 1
    report = Report()
    unittest.TestSuite(wanted).run(report)
    failed = len({id(test) for test, _ in report.failures + report.errors})
    failed = max(failed, 0 if report.wasSuccessful() else 1)
    for test, error in report.failures + report.errors:  # again, for who reads only the end
        print("failed: %s: %s" % (name_of(test), error.strip().split("\n")[-1][:300]))
    for test, reason in report.skipped:
        print("skipped: %s: %s" % (name_of(test), reason))
    print("interop: %d passed, %d failed, %d skipped" % (report.passed, failed, len(report.skipped)))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
