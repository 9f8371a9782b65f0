"""`python -m pinfold` is the `pinfold` command."""

from pinfold.cli import main

main(prog_name="pinfold")
