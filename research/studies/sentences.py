"""Sentences for the studies: Malay, Turkish and Polish, a few thousand each, drawn from small grammars.

A sentence is who, what they do with it, and where or when, from lists in which everything goes with everything, so that
what comes out is plain and grammatical. The same number gives the same sentence on every machine. All of it was written
for this project; the texts are CC0 like the demo's.

    python research/studies/sentences.py malay --count 20
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Grammar:
    """Lists from which a language's sentences are put together, their entries separated by `|`."""

    who: str
    does: str
    """What somebody does, with its object."""
    where: str
    when: str
    and_then: str
    """A second clause that goes with any first one."""
    asks: tuple[str, ...]
    """Questions with `{does}`, `{where}` or `{when}`."""
    order: str
    """How the parts follow each other."""


MALAY = Grammar(
    who=(
        "ayah|ibu|kakak|adik|abang|nenek|datuk|guru besar|jiran kami|pemandu teksi|doktor muda itu|petani tua itu|kawan saya|anak saudara saya"
        "|penjual ikan|juruwang kedai|pelajar baharu itu|Aminah|Rahim|Salmah|Encik Hassan|Puan Zaiton|tukang kebun|budak lelaki itu"
        "|gadis berbaju biru|penjaga pintu|jururawat|nelayan|tukang jahit|pemuzik jalanan|keluarga angkat kami|pak cik Daud"
    ),
    does=(
        "membeli sayur segar|memasak gulai ikan|membaca surat khabar|menulis surat panjang|membasuh pinggan mangkuk|menjual kuih lapis"
        "|membaiki basikal lama|menyiram pokok bunga|menyapu daun kering|mengajar lagu baharu|melukis gambar gunung|mencari kunci kereta"
        "|menjahit baju kurung|memandu lori besar|menangkap udang galah|menanam padi huma|mengutip sampah|membawa payung hitam"
        "|menghantar bungkusan kecil|menyimpan wang syiling|mengira buah rambutan|merebus ubi kayu|menggoreng pisang|memotong rumput"
        "|mengecat pagar kayu|menyusun buku cerita|memanggil kucingnya|menunggu bas terakhir|mendengar berita radio|meminjam tangga besi"
        "|menonton wayang kulit|memetik bunga melur|mengangkat kotak berat|membuka jendela|menutup pintu pagar|menghias bilik tamu"
        "|mengupas bawang merah|menghidang teh panas|melipat selimut tebal|memberi makan ayam|bercerita tentang laut|bermain congkak"
        "|menyanyi dengan perlahan|ketawa terbahak-bahak|berlari tanpa kasut|tidur dengan nyenyak|berbual tentang cuaca"
    ),
    where=(
        "di dapur|di pasar malam|di tepi sungai|di kebun belakang|di stesen bas|di perpustakaan|di bawah pokok kelapa|di beranda rumah"
        "|di sekolah rendah|di hujung kampung|di atas jambatan|di kedai kopi|di klinik desa|di dewan orang ramai|di pejabat pos|di pantai"
        "|di ladang getah|di bilik sebelah|di lorong sempit itu|di padang bola|di jeti lama|di rumah sewa|di kaki bukit|di ruang tamu"
    ),
    when=(
        "pagi ini|semalam|setiap petang|pada hujung minggu|selepas hujan reda|sebelum matahari terbit|malam tadi|pada hari Khamis"
        "|sejak tengah hari|sebelum makan malam|pada cuti sekolah|minggu lepas|selepas solat Asar|hampir setiap hari|pada awal bulan"
        "|sementara menunggu kami"
    ),
    and_then=(
        "kemudian pulang dengan gembira|lalu duduk berehat sebentar|tetapi terlupa membawa telefon|sambil menunggu hujan berhenti"
        "|walaupun badannya letih|kerana tetamu akan datang|supaya semua orang senang hati|dan tidak berkata apa-apa|lalu mengunci pintu"
        "|tetapi hasilnya tidak seberapa|sambil tersenyum lebar|kerana harganya murah"
    ),
    asks=(
        "siapa yang {does} {where}?",
        "adakah {who} akan {does} {when}?",
        "mengapa {who} {does} {where}?",
        "bolehkah {who} {does} {when}?",
        "bilakah {who} mahu {does}?",
        "tolong jangan {does} {where}!",
    ),
    order="{who} {does} {where} {when}",
)

TURKISH = Grammar(
    who=(
        "annem|babam|ablam|kardeşim|ağabeyim|büyükannem|dedem|komşumuz|öğretmen|genç doktor|yaşlı çiftçi|arkadaşım|kuzenim|balıkçı|kasiyer"
        "|yeni öğrenci|Ayşe|Mehmet|Zeynep|Hasan Bey|Gülşen Hanım|bahçıvan|küçük çocuk|mavi gömlekli kız|kapıcı|hemşire|terzi|şoför"
        "|sokak müzisyeni|teyzem|amcam|müdür yardımcısı"
    ),
    does=(
        "taze sebze aldı|balık çorbası pişirdi|gazete okudu|uzun bir mektup yazdı|bulaşıkları yıkadı|simit sattı|eski bisikleti onardı"
        "|çiçekleri suladı|kuru yaprakları süpürdü|yeni bir şarkı öğretti|dağ resmi çizdi|anahtarlarını aradı|mavi bir elbise dikti"
        "|büyük kamyonu sürdü|iki levrek tuttu|domates fidesi dikti|çöpleri topladı|siyah bir şemsiye getirdi|küçük bir paket gönderdi"
        "|bozuk paraları saydı|kiraz topladı|patates haşladı|yumurta kızarttı|çimleri biçti|tahta çiti boyadı|masal kitaplarını dizdi"
        "|kedisini çağırdı|son otobüsü bekledi|radyoda haberleri dinledi|merdiven ödünç aldı|gölge oyunu izledi|gül kokladı"
        "|ağır kutuyu kaldırdı|pencereyi açtı|bahçe kapısını kapattı|misafir odasını süsledi|soğan soydu|sıcak çay ikram etti"
        "|kalın yorganı katladı|tavuklara yem verdi|denizi anlattı|tavla oynadı|alçak sesle şarkı söyledi|yüksek sesle güldü"
        "|ayakkabısız koştu|derin bir uykuya daldı|havadan sudan konuştu"
    ),
    where=(
        "mutfakta|pazarda|nehir kıyısında|arka bahçede|otobüs durağında|kütüphanede|çınar ağacının altında|balkonda|ilkokulda|köyün sonunda"
        "|köprünün üstünde|kahvede|sağlık ocağında|düğün salonunda|postanede|sahilde|zeytin bahçesinde|yan odada|dar sokakta|futbol sahasında"
        "|eski iskelede|kiralık evde|tepenin eteğinde|oturma odasında"
    ),
    when=(
        "bu sabah|dün|geçen akşam|hafta sonunda|yağmur dindikten sonra|güneş doğmadan önce|dün gece|perşembe günü|öğleden beri|yemekten önce"
        "|okul tatilinde|geçen hafta|ikindiden sonra|neredeyse her gün|ayın başında|bizi beklerken"
    ),
    and_then=(
        "sonra neşeyle eve döndü|ardından biraz dinlendi|ama telefonunu unuttu|çünkü misafir gelecekti|ama çok yorulmuştu|ve hiçbir şey söylemedi"
        "|sonra kapıyı kilitledi|ama sonuç pek iyi olmadı|çünkü fiyatı ucuzdu|ve herkes çok sevindi|ama kimse fark etmedi|ve genişçe gülümsedi"
    ),
    asks=(
        "kim {where} {does}?",
        "{who} neden {where} {does}?",
        "{who} {when} gerçekten {does} {harmony}?",
        "acaba {who} {where} {does} {harmony}?",
        "{who} {when} kiminle {does}?",
        "demek {who} {where} {does}!",
    ),
    order="{who} {when} {where} {does}",
)

POLISH = Grammar(
    who=(
        "mama|tata|babcia|dziadek|moja siostra|mój brat|sąsiadka|nauczyciel|młody lekarz|stary rolnik|koleżanka|kuzyn|rybak"
        "|kasjerka|nowy uczeń|Ania|Marek|Zosia|pan Kowalski|pani Nowak|ogrodnik|mały chłopiec|dziewczyna w niebieskiej sukience"
        "|dozorca|pielęgniarka|krawcowa|kierowca|uliczny muzyk|ciocia|wujek"
    ),
    does=(
        "kupuje świeże warzywa|gotuje zupę rybną|czyta gazetę|pisze długi list|zmywa naczynia|sprzedaje ciasto"
        "|naprawia stary rower|podlewa kwiaty|zamiata suche liście|uczy nowej piosenki|rysuje góry|szuka kluczy|szyje płaszcz"
        "|prowadzi dużą ciężarówkę|łowi szczupaki|sadzi pomidory|zbiera śmieci|niesie czarny parasol|wysyła małą paczkę"
        "|liczy drobne pieniądze|zbiera wiśnie|gotuje ziemniaki|smaży jajka|kosi trawę|maluje drewniany płot|układa książki"
        "|woła swojego kota|czeka na ostatni autobus|słucha wiadomości w radiu|pożycza drabinę|ogląda przedstawienie|wącha różę"
        "|podnosi ciężkie pudło|otwiera okno|zamyka bramę|ozdabia pokój gościnny|obiera cebulę|podaje gorącą herbatę"
        "|składa grubą kołdrę|karmi kury|opowiada o morzu|gra w szachy|śpiewa cicho|śmieje się głośno|biega bez butów|śpi głęboko"
        "|rozmawia o pogodzie|dźwiga żelazny łańcuch|chwali świąteczny obiad|ćwiczy na skrzypcach"
    ),
    where=(
        "w kuchni|na targu|nad rzeką|w ogrodzie|na przystanku|w bibliotece|pod lipą|na balkonie|w szkole|na końcu wsi|na moście"
        "|w kawiarni|w przychodni|na poczcie|na plaży|w sadzie|w sąsiednim pokoju|na wąskiej ulicy|na boisku|na starym molo"
        "|u podnóża góry|w salonie"
    ),
    when=(
        "dziś rano|każdego wieczoru|w weekend|po deszczu|przed wschodem słońca|w nocy|w czwartek|od południa|przed obiadem"
        "|w czasie wakacji|prawie codziennie|na początku miesiąca|czekając na nas"
    ),
    and_then=(
        "a potem wraca do domu|i chwilę odpoczywa|ale zapomina o telefonie|bo przyjdą goście|i nic nie mówi"
        "|a potem zamyka drzwi na klucz|ale nikt tego nie zauważa|i szeroko się uśmiecha|bo cena jest niska"
    ),
    asks=(
        "kto {does} {where}?",
        "czy {who} {does} {when}?",
        "dlaczego {who} {does} {where}?",
        "kiedy {who} {does}?",
        "czy {who} naprawdę {does} {where}?",
        "proszę powiedzieć, kto {does} {when}.",
    ),
    order="{who} {does} {where} {when}",
)

GRAMMARS = {"malay": MALAY, "turkish": TURKISH, "polish": POLISH}
ASK_EVERY = 7
LONGEST = 85
"""Characters; the embedded base was trained on sentences of up to six seconds."""


_HARMONY = dict(zip("aıeiouöü", ("mı", "mı", "mi", "mi", "mu", "mu", "mü", "mü"), strict=True))
"""The Turkish question particle by the last vowel before it."""


def sentence(language: str, number: int) -> str:
    """The sentence with this number."""
    rng = Random(f"{language}:{number}")
    grammar = GRAMMARS[language]
    parts = {k: rng.choice(getattr(grammar, k).split("|")) for k in ("who", "does", "where", "when")}
    parts["harmony"] = _HARMONY[next(c for c in reversed(parts["does"]) if c in _HARMONY)]
    if rng.randrange(ASK_EVERY) == 0:
        text = rng.choice(grammar.asks).format(**parts)
    else:
        kept = {k: v if k in ("who", "does") or rng.random() < 0.6 else "" for k, v in parts.items()}
        text = " ".join(grammar.order.format(**kept).split())
        if rng.random() < 0.3:
            more = rng.choice(grammar.and_then.split("|"))
            text += f" {more}" if more.startswith(("ve ", "dan ")) else f", {more}"
        text += "."
    return _capital(text, language)


def _capital(text: str, language: str) -> str:
    first = "İ" if language == "turkish" and text[0] == "i" else text[0].upper()
    return first + text[1:]


def sentences(language: str, count: int, without: frozenset[str] = frozenset()) -> list[str]:
    """The first distinct sentences that are short enough and not among `without`."""
    found: dict[str, None] = {}
    number = 0
    while len(found) < count:
        text = sentence(language, number)
        number += 1
        if len(text) <= LONGEST and text not in without:
            found.setdefault(text)
    return list(found)


def main() -> None:
    """Prints sentences."""
    parser = argparse.ArgumentParser(description="Sentences for the studies.")
    parser.add_argument("language", choices=sorted(GRAMMARS))
    parser.add_argument("--count", type=int, default=20)
    arguments = parser.parse_args()
    print("\n".join(sentences(arguments.language, arguments.count)))


if __name__ == "__main__":
    main()
