use super::*;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, KeyPair as _, RSA_PSS_2048_8192_SHA256, UnparsedPublicKey,
};

/// An RSA key made for this test.
const RSA: &str = include_str!("../../../tests/vectors/rsa-key.pem");

fn rsa() -> Secret {
    Secret::new(RSA)
}

fn spec(algorithm: JwtAlgorithm) -> AssertionSpec {
    AssertionSpec {
        key: Some(SecretRef::Env("KEY".to_owned())),
        algorithm,
        key_id: Some("k1".to_owned()),
        issuer: Some("gateway".to_owned()),
        subject: Some("gateway".to_owned()),
        audience: None,
        lifetime: Duration::from_mins(2),
        claims: Map::new(),
    }
}

/// Header, claims and signature.
fn parts(token: &str) -> (Value, Value, Vec<u8>) {
    let parts: Vec<Vec<u8>> =
        token.split('.').map(|part| URL_SAFE_NO_PAD.decode(part).unwrap()).collect();
    let [header, claims, signature] = &parts[..] else { panic!("{token}") };
    let json = |part| serde_json::from_slice(part).unwrap();
    (json(header), json(claims), signature.clone())
}

#[test]
fn claims_are_those_of_the_rfc() {
    let spec = AssertionSpec {
        claims: json!({ "scope": "read", "tenant": 7 }).as_object().unwrap().clone(),
        ..spec(JwtAlgorithm::RS256)
    };
    let token = spec.sign_at(&rsa(), "https://id.example.com", 1_700_000_000, "id-1").unwrap();
    let (header, claims, _) = parts(&token);
    assert_eq!(header, json!({ "alg": "RS256", "typ": "JWT", "kid": "k1" }));
    let expected = json!({
        "iss": "gateway",
        "sub": "gateway",
        "aud": "https://id.example.com",
        "iat": 1_699_999_990,
        "exp": 1_700_000_110,
        "jti": "id-1",
        "scope": "read",
        "tenant": 7,
    });
    assert_eq!(claims, expected);
    let named = AssertionSpec { audience: Some("urn:other".to_owned()), key_id: None, ..spec };
    let (header, claims, _) = parts(&named.sign_at(&rsa(), "x", 1_700_000_000, "i").unwrap());
    assert_eq!(claims["aud"], "urn:other");
    assert_eq!(header, json!({ "alg": "RS256", "typ": "JWT" }));
}

#[test]
fn no_two_assertions_are_the_same_and_none_lives_longer_than_five_minutes() {
    let spec = AssertionSpec { lifetime: Duration::from_hours(1), ..spec(JwtAlgorithm::RS256) };
    let clock = Clock::system();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..5 {
        let (_, claims, _) = parts(&spec.sign(&rsa(), "a", &clock).unwrap());
        assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 300);
        assert!(claims["iat"].as_u64().unwrap() * 1000 < unix_ms(clock.wall()), "slightly back");
        assert!(seen.insert(claims["jti"].as_str().unwrap().to_owned()));
    }
}

/// `openssl dgst -sha256 -sign rsa-key.pem`
#[test]
fn rs256_signs_as_openssl_does() {
    let signature = JwtAlgorithm::RS256.sign(&rsa(), b"header.payload").unwrap();
    assert_eq!(
        URL_SAFE_NO_PAD.encode(signature),
        "h002YAEbDTYMDT8rJz3V7wnLVpb2UZ26yhZP7_8Mr9K1cwRr0oVdiYPnd5jD0QjrkmrbG6w89vugWlkohyTzzH_ypry8\
         ZPybf79cZ8Ls0vEbAyHjwJmwJl1KlzyzWXjAafzxHlQ33Kg3AEaptHiQUIZsjJXRhGC8Ip22VOpcvYtdTJPpS8Z9g40a\
         H2U0kqM_ehLPyfvB7cjany0knU5CsehcslzgOKYzzf01BRqQwohrl9GkCXhntmtIN9Ie3XFSqvPDpvI5G2s-PBMB5FeE\
         REyWu6Hu-1190HDqxbq0BB7mBu3ULFOXuM-z0VVgZS7J97ANnw3MQbp21syXzhNmkQ"
    );
}

/// RFC 8037, Appendix A.4.
#[test]
fn eddsa_signs_as_in_the_rfc() {
    let pem = "-----BEGIN PRIVATE KEY-----\n\
               MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
               -----END PRIVATE KEY-----";
    let message = b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
    let signature = JwtAlgorithm::EdDSA.sign(&Secret::new(pem), message).unwrap();
    assert_eq!(
        URL_SAFE_NO_PAD.encode(signature),
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
    );
}

#[test]
fn ps256_can_be_verified() {
    let signature = JwtAlgorithm::PS256.sign(&rsa(), b"header.payload").unwrap();
    let der = PrivateKeyDer::from_pem_slice(RSA.as_bytes()).unwrap();
    let key = ring::rsa::KeyPair::from_pkcs8(der.secret_der()).unwrap();
    let public = UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, key.public_key().as_ref());
    public.verify(b"header.payload", &signature).unwrap();
}

/// A number with a zero in front is shorter in ASN.1, one with its highest bit set is longer; over
/// many signatures both occur.
#[test]
fn es256_can_be_verified_whatever_the_lengths_of_its_numbers() {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let pem = Secret::new(key.serialize_pem());
    let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.public_key_raw());
    for count in 0..600_u32 {
        let message = count.to_be_bytes();
        let signature = JwtAlgorithm::ES256.sign(&pem, &message).unwrap();
        assert_eq!(signature.len(), 64);
        public.verify(&message, &signature).unwrap();
    }
}

#[test]
fn numbers_of_any_length_are_padded_and_nonsense_is_none() {
    let mut expected = [0; 64];
    expected[31] = 5;
    expected[62] = 0x80;
    assert_eq!(two_numbers(&[0x30, 8, 2, 1, 5, 2, 3, 0, 0x80, 0]).unwrap(), expected);
    for wrong in [
        &[][..],
        &[0x30],
        &[0x31, 6, 2, 1, 5, 2, 1, 6],
        &[0x30, 6, 2, 1, 5, 2, 9, 6],
        &[0x30, 6, 2, 1, 5, 3, 1, 6],
        &[0x30, 7, 2, 1, 5, 2, 1, 6, 7],
    ] {
        assert_eq!(two_numbers(wrong), None, "{wrong:?}");
    }
}

#[test]
fn a_key_that_does_not_fit_is_told_without_showing_it() {
    let canary = Secret::new("canary");
    let error = JwtAlgorithm::RS256.sign(&canary, b"m").unwrap_err();
    assert!(!error.is_refusal() && !error.to_string().contains("canary"), "{error}");
    let error = JwtAlgorithm::ES256.sign(&rsa(), b"m").unwrap_err().to_string();
    assert!(error.contains("does not fit"), "{error}");
    let odd = Secret::new("-----BEGIN PRIVATE KEY-----\nY2FuYXJ5\n-----END PRIVATE KEY-----");
    let error = JwtAlgorithm::ES256.sign(&odd, b"m").unwrap_err().to_string();
    assert!(error.contains("not supported") && !error.contains("Y2Fu"), "{error}");
}
