"""`bitgaze completion`: a script that lets the shell complete commands and options."""

import argparse
import re

from bitgaze.cli.options import OK, Commands
from bitgaze.cli.terminal import say

_BASH = """_bitgaze() {{
  local options word="${{COMP_WORDS[COMP_CWORD]}}" command="${{COMP_WORDS[1]}}"
  if [ "$COMP_CWORD" = 1 ]; then
    options="{commands}"
  else
    case "$command" in
{cases}
    esac
  fi
  case "$word" in
    -*) COMPREPLY=($(compgen -W "$options" -- "$word")) ;;
    *) [ "$COMP_CWORD" = 1 ] && COMPREPLY=($(compgen -W "$options" -- "$word")) ;;
  esac
}}
complete -o default -F _bitgaze bitgaze"""
_ZSH = "autoload -U +X compinit bashcompinit && compinit && bashcompinit"


def add_to(commands: Commands, top: argparse.ArgumentParser) -> None:
    """Add the command, which completes all commands of the parser `top`."""

    def run(options: argparse.Namespace) -> int:
        say(*([_ZSH] if options.shell == "zsh" else []), _script(top, commands))
        return OK

    text = "Print a script that lets the shell complete commands and options."
    parser = commands.add_parser(
        "completion", help=text, description=f'{text} Use: eval "$(bitgaze completion bash)"'
    )
    parser.set_defaults(run=run)
    parser.add_argument("shell", choices=("bash", "zsh"), help="the shell")


def _script(top: argparse.ArgumentParser, commands: Commands) -> str:
    names = [*commands.choices, *_options(top)]
    cases = [
        f'      {name}) options="{" ".join(_options(parser))}" ;;'
        for name, parser in commands.choices.items()
    ]
    return _BASH.format(commands=" ".join(names), cases="\n".join(cases))


def _options(parser: argparse.ArgumentParser) -> list[str]:
    """The long options of a parser, as its help lists them."""
    lines = (line.strip() for line in parser.format_help().splitlines())
    words = (word.strip(",") for line in lines if line.startswith("-") for word in line.split())
    return list(dict.fromkeys(word for word in words if re.fullmatch("--[a-z0-9-]+", word)))
