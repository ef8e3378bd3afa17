"""Recognise VPN flows in captures and check both ends against a register of who may run a VPN.

    import classifier

    for event in classifier.replay("capture.pcap", rules="rules/"):
        if event["event_type"] == "vpn" and event["event"] == "ended":
            print(event["src_ip"], event["vpn"]["protocol"], event["policy"]["verdict"])

An event is a dictionary of the shape that `event.schema.json` in this package describes.
"""

from classifier._core import version as __version__
from classifier.errors import (
    ClassifierError,
    ConfigError,
    Fault,
    FaultyFileError,
    OutputError,
    PolicyError,
    RegisterError,
)
from classifier.events import AttemptsEvent, Event, StatsEvent, VpnEvent
from classifier.inputs import InputError, InputFault
from classifier.pipeline import replay

__all__ = [
    "AttemptsEvent",
    "ClassifierError",
    "ConfigError",
    "Event",
    "Fault",
    "FaultyFileError",
    "InputError",
    "InputFault",
    "OutputError",
    "PolicyError",
    "RegisterError",
    "StatsEvent",
    "VpnEvent",
    "__version__",
    "replay",
]
