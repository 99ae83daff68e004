"""The command line in the test's own process, which has imported everything already."""

from typer.testing import CliRunner, Result

from m2kr.cli.main import app


def call(*args: object, code: int = 0) -> Result:
    """What a command prints; ``code`` is the exit code it must have."""
    done = CliRunner().invoke(app, list(map(str, args)))
    assert done.exit_code == code, done.output
    return done
