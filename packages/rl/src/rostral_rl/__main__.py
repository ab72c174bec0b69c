"""`python -m rostral_rl`: the same as the `rostral-rl` command."""

from rostral_rl.cli import main

main(prog_name="rostral-rl")
