"""`python -m redeem …` is `redeem …`."""

from redeem.cli import main

main()
