"""Evidence on papers' claims: does a method's mechanism act in our runs, and does the claimed effect appear?"""
