"""What an answer must keep to: a JSON schema, a pattern, choices or a grammar, as masks of tokens.

Knows no engine and no text of anybody, only a vocabulary. `Grammars` compiles; what comes out is a
`Grammar` of types.py. The parser is llguidance's; checks, limits and the rule of control tokens are
ours.
"""

from llamastream.grammar.compiling import Compiled, Grammars, Later, version_of
from llamastream.grammar.reasoning import Reasoned, Tags
from llamastream.grammar.vocabulary import Vocabulary

AnyGrammar = Compiled | Later | Reasoned

__all__ = ["AnyGrammar", "Compiled", "Grammars", "Reasoned", "Tags", "Vocabulary", "version_of"]
