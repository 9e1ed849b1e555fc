"""States to trees and chunks, and back: flatten and inflate, the save pipeline and the load pipeline."""
