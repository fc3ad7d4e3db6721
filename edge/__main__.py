"""`python -m edge`."""

from edge.cli.main import command

if __name__ == "__main__":
    command()
