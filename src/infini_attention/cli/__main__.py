"""python -m infini_attention.cli"""

from infini_attention.cli import main

main()
