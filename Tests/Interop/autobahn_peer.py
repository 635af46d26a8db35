"""Runs the Autobahn test suite's fuzzing client or server. For Python 2.7, which is what the suite is written in.

    python2.7 autobahn_peer.py FOLDER client|server SPEC      FOLDER holds the packages of autobahn.txt

Only the WebSocket part of the suite is loaded: its command line wants a web framework and TLS for parts nobody needs here.
"""

from __future__ import print_function

import json
import os
import site
import sys
import types


def stand_in(name, **members):
    module = types.ModuleType(name)
    module.__dict__.update(members)
    sys.modules[name] = module
    return module


folder, role, spec = sys.argv[1:]
suite = os.path.join(folder, "autobahntestsuite")
site.addsitedir(folder)
sys.path.insert(0, suite)  # the suite imports its own files by their bare names
sys.path.remove(os.path.dirname(os.path.abspath(__file__)))
stand_in("autobahntestsuite", version="25.10.1", __path__=[suite], __file__=os.path.join(suite, "__init__.py"))

import twisted.internet  # noqa: E402

twisted.internet.ssl = stand_in("twisted.internet.ssl", ClientContextFactory=object)

import fuzzing  # noqa: E402
from twisted.internet import reactor  # noqa: E402

with open(spec) as stream:
    wanted = json.load(stream)
# The suite compares types: text from JSON is `unicode` there, and it wants `str`.
wanted = {str(key): str(value) if isinstance(value, type(u"")) else value for key, value in wanted.items()}
if role == "client":
    fuzzing.startClient(wanted)
else:
    fuzzing.startServer(wanted, None)
reactor.run()
