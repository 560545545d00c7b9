"""`bitgaze doctor`: check the installation."""

import argparse
import json
from dataclasses import asdict

from bitgaze.cli.options import OK, SOME_FAILED, Commands, add_command
from bitgaze.cli.terminal import say


def add_to(commands: Commands) -> None:
    """Add the command."""
    add_command(commands, doctor)


def doctor(options: argparse.Namespace) -> int:
    """Diagnose this installation and suggest fixes."""
    from bitgaze.cli.diagnosis import examine

    diagnosis = examine()
    if options.json:
        say(json.dumps(asdict(diagnosis)))
    else:
        facts = {**diagnosis.facts, "onnxruntime": ", ".join(diagnosis.facts["onnxruntime"])}
        say(
            *(f"{name:12} {value}" for name, value in facts.items()),
            *(f"{'provider':12} {report}" for report in diagnosis.providers.values()),
        )
        for finding in diagnosis.findings:
            say("", f"problem  {finding.found}", f"effect   {finding.harm}")
            say(f"fix      {finding.remedy}")
        say("", f"findings: {len(diagnosis.findings) or 'none'}")
    return SOME_FAILED if diagnosis.findings else OK
