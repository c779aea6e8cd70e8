"""What an answer must keep to: a JSON schema, a pattern, choices or a grammar, as masks of tokens.

Knows no engine and no text of anybody, only a vocabulary. `Grammars` compiles; what comes out is a
`Grammar` of types.py. The parser is llguidance's; checks, limits and the rule of control tokens are
ours.
"""

from llamastream.grammar.compiling import AnyGrammar, Compiled, Grammars, version_of
from llamastream.grammar.vocabulary import Vocabulary

__all__ = ["AnyGrammar", "Compiled", "Grammars", "Vocabulary", "version_of"]
